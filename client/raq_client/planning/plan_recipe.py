"""Convert a plan with a base to a recipe: a file with its moves, which other recipes can extend."""

from raq_client.planning.plan import Plan
from raq_client.recipes.diff import Exchange
from raq_client.recipes.recipe_file import FORMAT, Expected, Move, Recipe
from raq_solver.errors import Fault, InvalidInput


def recipe_of(plan: Plan) -> Recipe:
    """The recipe whose moves lead from the plan's base to its allocation, in the order of the ledger.

    Raises InvalidInput for a plan without a base or an allocation.
    """
    exchange, base = plan.exchange, plan.spec.base
    _, ledger = plan.outcome.unwrap()
    if exchange is None or base is None:
        raise InvalidInput(Fault("--format recipe", "a recipe starts from a base; give --base"))
    bits = float(ledger.bits_per_weight or 0)
    return Recipe(
        format=FORMAT,
        name=f"{base.name.split()[0].lower()}-to-{bits:.4f}bpw",
        description=f"least predicted loss within {ledger.capacity:,} bytes, {plan.outcome.termination.value}",
        source=f"raq-client solve; {plan.table.source}",
        base=base.reference,
        moves=_moves(exchange),
        expected=Expected(tensor_bytes=ledger.size),
    )


def _moves(exchange: Exchange) -> tuple[Move, ...]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for line in exchange.lines:
        groups.setdefault((line.stage.value, line.before, line.after), []).append(line.tensor)
    return tuple(
        Move(tensors=tuple(names), type=after, before=(before,), reason=stage)
        for (stage, before, after), names in groups.items()
    )
