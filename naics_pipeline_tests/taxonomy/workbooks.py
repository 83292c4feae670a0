"""Small sources for tests: workbooks in the layout of the Census files, made from rows."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from naics_pipeline.settings import Download
from naics_pipeline.taxonomy.census import Workbooks, read_source

Cell = str | int | None

_NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_RELATIONS = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PARTS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>'
    ),
    "_rels/.rels": (
        f"<Relationships {_RELATIONS}>"
        f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/_rels/workbook.xml.rels": (
        f"<Relationships {_RELATIONS}>"
        f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ),
}


def write_workbook(path: Path, sheet: str, rows: Iterable[Sequence[Cell]]) -> Path:
    """An .xlsx file of one sheet; numbers become numeric cells, None an absent one."""
    lines = [
        f'<row r="{number}">{"".join(_cell(value, number, column) for column, value in enumerate(row))}</row>'
        for number, row in enumerate(rows, start=1)
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _PARTS.items():
            archive.writestr(name, content)
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook {_NAMESPACE} xmlns:r="{_OFFICE}"><sheets>'
            f'<sheet name={quoteattr(sheet)} sheetId="1" r:id="rId1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {_NAMESPACE}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
    return path


def _cell(value: Cell, row: int, column: int) -> str:
    place = f'r="{chr(ord("A") + column)}{row}"'
    if value is None:
        return ""
    if isinstance(value, int):
        return f"<c {place}><v>{value}</v></c>"
    return f'<c {place} t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


@dataclass
class Source:
    """A directory of four workbooks that a test may bend before it writes them."""

    codes: dict[str, str]
    descriptions: dict[str, str] = field(default_factory=dict)
    index: list[tuple[str, str]] = field(default_factory=list)
    cross_references: list[tuple[str, str]] = field(default_factory=list)
    vintage: int = 2022

    def write(self, directory: Path) -> Path:
        year, short = self.vintage, self.vintage % 100
        directory.mkdir(parents=True, exist_ok=True)
        numbered = [(number, code, title) for number, (code, title) in enumerate(self.codes.items(), start=1)]
        write_workbook(
            directory / f"2-6 digit_{year}_Codes.xlsx",
            f"tbl_{year}_title_description_coun",
            [("Seq. No.", f"{year} NAICS US   Code", f"{year} NAICS US Title"), (None, None, None), *numbered],
        )
        described = [
            (code, f"{title}T", self.descriptions.get(code, f"This industry comprises {title}."))
            for code, title in self.codes.items()
        ]
        write_workbook(
            directory / f"{year}_NAICS_Descriptions.xlsx",
            f"{year}_NAICS_Descriptions",
            [("Code", "Title", "Description"), *described],
        )
        write_workbook(
            directory / f"{year}_NAICS_Index_File.xlsx",
            f"{year}NAICS",
            [(f"NAICS{short}", "INDEX ITEM DESCRIPTION"), *self.index],
        )
        write_workbook(
            directory / f"{year}_NAICS_Cross_References.xlsx",
            f"{year}_NAICS_Cross_References",
            [("Code", "Cross-Reference"), *self.cross_references],
        )
        return directory

    def read(self, directory: Path) -> Workbooks:
        return read_source(str(self.write(directory)), self.vintage, Download(), directory / "cache")


def small_source() -> Source:
    """Two sectors, one of them merged, complete to six digits."""
    return Source(
        codes={
            "11": "Farming",
            "111": "Crop Production",
            "1111": "Grain Farming",
            "11111": "Soybean Farming",
            "111110": "Soybean Farming ",
            "11112": "Wheat Farming",
            "111120": "Wheat Farming",
            "31-33": "Manufacturing",
            "311": "Food Manufacturing",
            "3112": "Milling",
            "31121": "Flour Milling",
            "311210": "Flour Milling",
            "332": "Metal Products",
            "3321": "Forging",
            "33211": "Forging",
            "332111": "Iron Forging",
        },
        descriptions={
            "11": "The Sector as a Whole\r\n\r\nFarms.\r\n\r\nExcluded from this sector are mills in Sector 31-33.",
            "1111": "NULL",
            "11111": "See industry description for 111110.",
            "111110": "This industry comprises farms.  They grow (e.g., 1.5 ha of) soybeans.\n\n"
            "Illustrative Examples:\n\nSoybean farming\nBean seed growing\n\n\n"
            "Cross-References. Establishments primarily engaged in--",
            "33211": "See industry description for 332111.",
            "332111": "This U.S. industry comprises forges.",
        },
        index=[
            ("111110", "Soybean farming, field and seed production"),
            ("111120", "Wheat farming"),
            ("311210", "Flour milling"),
            ("311210", "Semolina milling"),
            ("******", "Mills -- see type"),
        ],
        cross_references=[
            ("111110", "Growing wheat--are classified in Industry 111120, Wheat Farming; and"),
            ("111120", "Milling wheat into flour--are classified in U.S. Industry 311210, Flour Milling."),
        ],
    )
