"""Where settings come from: profile file < environment < command line or run config, each value with its origin."""

import difflib
import os
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Settings

DEFAULT_PROFILE = "sample"
VARIABLES = {"NAICS_SOURCE": "source", "NAICS_VINTAGE": "vintage", "NAICS_DATA_DIR": "data_dir"}
"""Short environment variables; any other key is NAICS__SECTION__KEY."""
OTHER_VARIABLES = ("NAICS_PROFILE", "NAICS_PROJECT_DIR", "NAICS_CENSUS_DIR")
SUPPLIED = {
    "corrections": "taxonomy.corrections",
    "labelled_texts": "evaluation.labelled",
    "file_to_classify": "classification.file",
}
"""What files of users are called → the setting that names them."""
NO_OVERRIDES: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True)
class Config:
    """Effective settings.

    Attributes:
        settings: validated; data_dir, curriculum and a source directory are absolute.
        origins: dotted key → the file, variable or option that gave the value, or "default".
        profile: name of the profile file.
    """

    settings: Settings
    origins: dict[str, str]
    profile: str

    def flat(self) -> dict[str, Any]:
        """Dotted key → value, in the order of the settings."""
        return {key: _get(self.settings, key) for key in known_keys()}


@dataclass(frozen=True)
class _Value:
    key: str
    value: Any
    origin: str


def load(
    profile: str | None = None,
    overrides: Mapping[str, str] = NO_OVERRIDES,
    environ: Mapping[str, str] | None = None,
    *,
    overrides_from: str = "--set",
) -> Config:
    """Reads and checks all settings.

    Args:
        profile: name of a file of conf/profiles; without one NAICS_PROFILE, else "sample".
        overrides: dotted key → value as text (YAML), stronger than everything else.
        environ: environment variables; those of the process unless given.
        overrides_from: what the overrides are called in origins and messages.

    Raises:
        SettingsError: an unknown key, a wrong type or an impossible value; names the file, variable or option.
    """
    environ = os.environ if environ is None else environ
    root, shipped = project_root(environ), shipped_with(environ)
    profile = profile or environ.get("NAICS_PROFILE") or DEFAULT_PROFILE
    values = [
        *_from_profile(shipped, profile),
        *_from_environment(environ),
        *(_from_text(key, text, f"{overrides_from} {key}") for key, text in overrides.items()),
    ]
    origins = dict.fromkeys(known_keys(), "default") | {value.key: value.origin for value in values}
    settings = _validated(values, origins)
    settings = settings.model_copy(
        update={
            "data_dir": _absolute(settings.data_dir, root),
            "curriculum": _absolute(settings.curriculum, root if (root / settings.curriculum).is_dir() else shipped),
            **_absolute_files(settings, root),
            "source": settings.source if settings.source in ("sample", "census") else _absolute(settings.source, root),
        }
    )
    _check_together(settings, origins)
    return Config(settings, origins, profile)


def _absolute_files(settings: Settings, root: Path) -> dict[str, BaseModel]:
    """The sections that name files of users, with absolute places."""
    found: dict[str, BaseModel] = {}
    for key in SUPPLIED.values():
        section, name = key.split(".")
        if place := getattr(getattr(settings, section), name):
            found[section] = getattr(settings, section).model_copy(update={name: _absolute(place, root)})
    return found


INSTALLED = Path(sysconfig.get_path("data")) / "share" / "naics-pipeline"
"""Where a wheel puts what a checkout has beside the package."""


def project_root(environ: Mapping[str, str] | None = None) -> Path:
    """What relative places are relative to: NAICS_PROJECT_DIR, else the checkout that the package lies in.

    Of a package installed from a wheel, the working directory.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("NAICS_PROJECT_DIR"):
        return Path(named).expanduser().absolute()
    checkout = Path(__file__).absolute().parents[1]
    return checkout if _holds_profiles(checkout) else Path.cwd()


def shipped_with(environ: Mapping[str, str] | None = None) -> Path:
    """The directory that holds conf/: the project's root, else what was installed with the package.

    Raises:
        SettingsError: there is none.
    """
    environ = os.environ if environ is None else environ
    root = project_root(environ)
    places = [root] if environ.get("NAICS_PROJECT_DIR") else [root, INSTALLED]
    for place in places:
        if _holds_profiles(place):
            return place
    raise SettingsError(
        f"{root}: holds no conf/profiles. Set NAICS_PROJECT_DIR to the root of a checkout of the project, or leave it "
        "unset to take the profiles that were installed."
    )


def _holds_profiles(place: Path) -> bool:
    return (place / "conf" / "profiles").is_dir()


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, Any]:
    """Dotted key → annotated type of every setting."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = field.annotation
    return keys


def refuse_unknown(key: str, origin: str) -> NoReturn:
    """Raises the error of a key that is no setting, with the nearest one."""
    known = list(known_keys())
    near = difflib.get_close_matches(key, known, n=1)
    if not near:
        leaf_to_key = {name.rsplit(".", 1)[-1]: name for name in known}
        near = [leaf_to_key[leaf] for leaf in difflib.get_close_matches(key.rsplit(".", 1)[-1], leaf_to_key, n=1)]
    hint = f"did you mean '{near[0]}'?" if near else "`naics config` lists the known ones."
    raise SettingsError(f"{origin}: unknown key '{key}'; {hint}")


def _from_profile(root: Path, profile: str) -> Iterator[_Value]:
    directory = root / "conf" / "profiles"
    path = directory / f"{profile}.yaml"
    if not path.is_file():
        names = sorted(found.stem for found in directory.glob("*.yaml"))
        raise SettingsError(f"profile '{profile}': there is no {path}. Known profiles: {', '.join(names)}.")
    origin = str(path.relative_to(root))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{origin}: not valid YAML ({error}).") from error
    if content is None:
        return
    if not isinstance(content, dict):
        raise SettingsError(f"{origin}: must hold keys and values, not a {type(content).__name__}.")
    for key, value in _flatten(content, Settings):
        if key not in known_keys():
            refuse_unknown(key, origin)
        yield _Value(key, value, origin)


def _flatten(content: Mapping[Any, Any], model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_section and isinstance(value, Mapping):
            yield from _flatten(value, annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", value


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Value]:
    known = [*VARIABLES, *OTHER_VARIABLES]
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith("NAICS_") or not text:
            continue
        if name.startswith("NAICS__"):
            yield _from_text(name.removeprefix("NAICS__").replace("__", ".").lower(), text, f"environment {name}")
        elif name in VARIABLES:
            yield _from_text(VARIABLES[name], text, f"environment {name}")
        elif name not in known and (close := _meant(name, known)):
            raise SettingsError(f"environment {name}: unknown variable; did you mean {close}?")


def _meant(name: str, known: Sequence[str]) -> str | None:
    """The variable that one of this name was probably meant to be; other programs may have names like ours."""
    if "__" in name:
        return name.replace("NAICS_", "NAICS__", 1)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.85)), None)


def _from_text(key: str, text: str, origin: str) -> _Value:
    annotation = known_keys().get(key)
    if annotation is None:
        refuse_unknown(key, origin)
    if annotation is str:
        return _Value(key, text, origin)
    try:
        return _Value(key, yaml.safe_load(text), origin)
    except yaml.YAMLError as error:
        raise SettingsError(f"{origin}: '{text}' is not a value ({error}).") from error


def _validated(values: Iterable[_Value], origins: Mapping[str, str]) -> Settings:
    nested: dict[str, Any] = {}
    for value in values:
        if isinstance(value.value, bool) and known_keys()[value.key] is not bool:
            raise SettingsError(
                f"{value.origin}: {value.key} = {value.value} is not possible: not a true/false setting."
            )
        *sections, leaf = value.key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value.value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        lines = [_complaint(dict(one), origins) for one in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def _complaint(error: dict[str, Any], origins: Mapping[str, str]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    key = next((known for known in origins if path == known or path.startswith(f"{known}.")), path)
    return f"{origins.get(key, key)}: {key} = {error['input']!r} is not possible: {error['msg']}."


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    """What no single value shows: whether values fit each other and the machine."""
    model, source = settings.model, settings.source
    bundled = source in ("sample", "census")
    problems = [
        (model.top_k > model.experts, "model.top_k", f"more than model.experts, {model.experts}"),
        (
            source == "sample" and settings.vintage != 2022,
            "vintage",
            "the bundled sample is of NAICS 2022; choose source census or a directory",
        ),
        (
            not bundled and not Path(source).is_dir(),
            "source",
            "not sample, not census and no directory; name the one that holds the four workbooks",
        ),
        (
            not any(Path(settings.curriculum).glob("*.yaml")),
            "curriculum",
            "no directory with a stage file (*.yaml) in it",
        ),
        (min(settings.evaluation.cutoffs, default=0) < 1, "evaluation.cutoffs", "name at least one, each at least 1"),
    ]
    for found, key, problem in problems:
        if found:
            raise SettingsError(f"{origins[key]}: {key} = {_get(settings, key)!r} is not possible: {problem}.")


def _absolute(place: str, root: Path) -> str:
    return place if "://" in place else str((root / Path(place).expanduser()).resolve())


def _get(settings: BaseModel, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value
