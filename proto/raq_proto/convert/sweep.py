"""Frontiers ⇄ streams of messages: the first allocation in full, later ones as changes."""

from collections.abc import Iterable, Iterator

from raq_proto.convert.outcome import termination_from_proto, termination_to_proto
from raq_proto.v1 import outcome_pb2
from raq_solver.allocation import Allocation
from raq_solver.questions.sweep import Change, Point


def points_to_proto(points: Iterable[Point]) -> Iterator[outcome_pb2.Point]:
    """The points of one frontier to messages, one by one."""
    sent = False
    for point in points:
        message = outcome_pb2.Point(
            capacity_bytes=point.capacity_bytes,
            termination=termination_to_proto(point.termination),
            size=point.size,
            loss=point.loss,
            bound=point.bound,
            multiplier=point.multiplier,
            changes=[outcome_pb2.Change(tensor=c.tensor, before=c.before, after=c.after) for c in point.changes],
            seconds=point.seconds,
        )
        if point.allocation is not None and not sent:
            types = point.allocation.types.items()
            message.allocation.extend(outcome_pb2.Assignment(tensor=t, quant_type=q) for t, q in types)
            sent = True
        yield message


class PointReader:
    """Reader of the messages of one frontier, in their order; keeps the allocation that changes refer to."""

    def __init__(self) -> None:
        self._types: dict[str, str] = {}

    def read(self, message: outcome_pb2.Point) -> Point:
        """Message to point."""
        if message.allocation:
            self._types = {each.tensor: each.quant_type for each in message.allocation}
        changes = tuple(Change(each.tensor, each.before, each.after) for each in message.changes)
        self._types |= {change.tensor: change.after for change in changes}
        found = message.HasField("size")
        return Point(
            capacity_bytes=message.capacity_bytes,
            termination=termination_from_proto(message.termination, "point"),
            size=message.size if found else None,
            loss=message.loss if message.HasField("loss") else None,
            bound=message.bound if message.HasField("bound") else None,
            multiplier=message.multiplier if message.HasField("multiplier") else None,
            allocation=Allocation(self._types) if found else None,
            changes=changes,
            seconds=message.seconds,
        )
