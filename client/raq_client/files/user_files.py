"""Read TOML and JSON files written by users through pydantic models, reporting all faults and near misses at once."""

from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from raq_client.files.reading import parse_json, parse_toml, read_text
from raq_client.files.validation import faults_of
from raq_solver.errors import Fault, InvalidInput, near_misses

Model = TypeVar("Model", bound=BaseModel)


def read_user_file(path: Path, model: type[Model], what: str) -> Model:
    """Read a file that should be `what`, as TOML or JSON according to its extension.

    Raises InvalidInput with every unknown key (and its nearest known one) and every wrong value.
    """
    return parse_user_text(read_text(path, what), model, str(path), what)


def parse_user_text(text: str, model: type[Model], where: str, what: str) -> Model:
    """Like `read_user_file` for a text, read as JSON if `where` ends in .json, else as TOML."""
    content = parse_json(text, where, what) if where.endswith(".json") else parse_toml(text, where, what)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        known = _keys(model)
        unknown = [
            Fault(
                f"{where}: {'.'.join(map(str, each['loc']))}", f"no such key{near_misses(str(each['loc'][-1]), known)}"
            )
            for each in error.errors()
            if each["type"] == "extra_forbidden"
        ]
        others = [fault for fault in faults_of(error, where, what) if "Extra inputs" not in fault.what]
        raise InvalidInput([*unknown, *others]) from None


def _keys(model: type[BaseModel]) -> set[str]:
    """The keys of a model and of its nested models."""
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            keys |= _keys(inner)
    return keys


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
