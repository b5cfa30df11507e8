"""The OpenAPI document is valid, and what the server answers is in it."""

import json

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from runtime.pipeline import MultimodalASR
from runtime.server.access import Access
from runtime.server.app import create_app
from runtime.server.limits import Limits
from runtime.server.openapi import document
from runtime.server.service import Service

EXAMPLES = 25  # of every operation


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_status_that_is_not_in_the_document(server, mode):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing that could be wrong

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def ask(case):
            nonlocal asked
            asked += 1
            # That a server takes a text for a number, as a form has no others, is no fault.
            case.call_and_validate(excluded_checks=[negative_data_rejection, positive_data_acceptance])

        ask()
    assert asked > EXAMPLES


def test_every_route_is_described(pocket_asr: MultimodalASR) -> None:
    app = create_app(Service(pocket_asr, Limits(), Access()))
    routes = {
        (route.path, method.lower())
        for route in app._app.routes
        for method in route.methods - {"HEAD"}
        if route.path != "/openapi.json"
    }
    described = document("0", with_tokens=False)
    assert routes == {(path, method) for path, methods in described["paths"].items() for method in methods}
    json.dumps(described)
