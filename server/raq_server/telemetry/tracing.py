"""Optional OpenTelemetry tracing: a span for every call, a child of the caller's span if it sends a traceparent.

The only file that imports the library, which `raq[tracing]` installs. It is configured by its own environment
variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SetAttributes = Callable[[Mapping[str, str | float]], None]
"""Sets attributes of a span."""
Spans = Callable[[str, Mapping[str, str]], AbstractContextManager[SetAttributes]]
"""Begins the span of a call, given its method and metadata."""


def no_spans(_method: str, _metadata: Mapping[str, str]) -> AbstractContextManager[SetAttributes]:
    """A span that records nothing."""
    return nullcontext(lambda _attributes: None)


def spans(exporter: "SpanExporter | None" = None) -> Spans:
    """Spans that go to the exporter; None: OTLP over HTTP, configured by environment variables.

    Raises InvalidInput if the library is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ModuleNotFoundError:
        raise InvalidInput(Fault("tracing", "needs more packages: pip install 'raq[tracing]'")) from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    tracer = provider.get_tracer("raq_server")
    propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(method: str, metadata: Mapping[str, str]) -> Iterator[SetAttributes]:
        parent = propagator.extract(metadata)
        with tracer.start_as_current_span(method.lstrip("/"), parent, kind=SpanKind.SERVER) as current:
            yield current.set_attributes

    return span
