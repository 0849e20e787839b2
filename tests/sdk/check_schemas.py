"""Validates answers against their JSON schemas: lines of {"schema": ..., "answer": "..."} from stdin. With
"closed": true objects have no fields but those that the schema names.

One difference is known: a leap second (":60") is a time to RFC 3339 and to llguidance, at any minute, and none to
Python's datetime.
"""

import json
import sys

from jsonschema import Draft202012Validator


def known(error):
    """Whether it is the difference above, also within the alternatives of anyOf."""
    if error.validator == "anyOf":
        return any(known(inner) for inner in error.context)
    is_time = error.validator == "format" and error.validator_value in ("time", "date-time")
    return is_time and ":60" in error.instance


def close(schema):
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)
        for inner in schema.values():
            close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            close(inner)


count, wrong = 0, []
for line in sys.stdin:
    case = json.loads(line)
    count += 1
    if case.get("closed"):
        close(case["schema"])
    try:
        value = json.loads(case["answer"])
        validator = Draft202012Validator(case["schema"], format_checker=Draft202012Validator.FORMAT_CHECKER)
        errors = [error.message for error in validator.iter_errors(value) if not known(error)]
    except ValueError as error:
        errors = [str(error)]
    if errors:
        wrong.append(f"{case['answer'][:2000]!r} under {json.dumps(case['schema'])[:2000]}: {errors[0][:2000]}")
print(f"{count} answers, {len(wrong)} not valid", *wrong[:10], sep="\n")
sys.exit(1 if wrong or not count else 0)
