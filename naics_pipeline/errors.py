"""Errors that a user can act on: each message says what is wrong, where, and the way out."""


class NaicsError(Exception):
    """Base of every error this project raises on purpose; the command line prints it without a traceback."""


class SettingsError(NaicsError):
    """A setting that is unknown, of the wrong type or impossible."""


class SourceError(NaicsError):
    """A workbook, sheet, column or row that cannot be used."""


class ModelError(NaicsError):
    """A base model, checkpoint or embeddings file that cannot be used."""


class TrainingError(NaicsError):
    """A training run that cannot go on."""
