"""Traces: one span a call, below the caller's, and what it tells."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from raq_proto import convert
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from support.services import problem, serving, wait_until


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
        wait_until(lambda: bool(exporter.get_finished_spans()))
    (span,) = exporter.get_finished_spans()
    assert span.name == "raq.v1.SolverService/Solve"
    assert f"{span.context.trace_id:032x}" == trace
    assert span.attributes["rpc.response.status_code"] == "OK"
    assert span.attributes["raq.request_id"] == "mine"


def test_spans_go_where_the_variables_of_the_library_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="raq[tracing]")
    received: list[tuple[str, bytes]] = []
    came = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            came.set()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "raq here")
        with serving(tracing=True) as running, grpc.insecure_channel(running.address) as channel:
            request = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(problem()))
            solver_service_pb2_grpc.SolverServiceStub(channel).Solve(request)
            assert came.wait(60)
        collector.shutdown()
    path, content = received[0]
    assert path == "/v1/traces"
    assert b"raq here" in content
    assert b"raq.v1.SolverService/Solve" in content
