"""Traces: one span a call, below the caller's, and what it tells."""

import time

import grpc
import pytest

from raq_proto import convert
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from services import problem, serving


def test_a_span_for_every_call_below_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="raq[tracing]")
    exporter = memory.InMemorySpanExporter()
    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", lambda: exporter)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    trace = "0af7651916cd43dd8448eb211c80319c"
    with serving(tracing=True) as running, grpc.insecure_channel(running.address) as channel:
        request = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(problem()))
        metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"), ("raq-request-id", "mine"))
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(request, metadata=metadata)
        deadline = time.monotonic() + 10
        while not exporter.get_finished_spans() and time.monotonic() < deadline:
            time.sleep(0.02)
    (span,) = exporter.get_finished_spans()
    assert span.name == "raq.v1.SolverService/Solve"
    assert f"{span.context.trace_id:032x}" == trace
    assert span.attributes["rpc.response.status_code"] == "OK"
    assert span.attributes["raq.request_id"] == "mine"
