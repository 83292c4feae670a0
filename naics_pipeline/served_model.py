"""The index as MLflow serves it. This file is logged as the model's code: it reads the directory logged beside it."""

from dataclasses import asdict
from threading import Lock
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from naics_pipeline.search.index import Index


class ServedIndex(PythonModel):
    """Answers texts as `naics search --json` does."""

    def load_context(self, context: PythonModelContext) -> None:
        config = context.model_config or {}
        self.index = Index.load(
            context.artifacts["naics_index"], accelerator=config.get("accelerator", "cpu"), base=config.get("base")
        )
        # The server asks from several threads, and a tokenizer serves one at a time.
        self.alone = Lock()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """An answer for each row.

        Args:
            model_input: a column text; a row without one is answered as an empty text is.
            params: k, threshold; see `Index.search`.
        """
        texts = ["" if pd.isna(text) else str(text) for text in model_input["text"]]
        with self.alone:
            return [asdict(answer) for answer in self.index.search(texts, **(params or {}))]


set_model(ServedIndex())
