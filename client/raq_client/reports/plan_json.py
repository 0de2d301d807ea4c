"""Plans and audits as plain data: what `--json` prints."""

from typing import Any

from raq_client.models.table import FINGERPRINT, GRAM_DIGEST
from raq_client.planning.model_inputs import missing_facts
from raq_client.planning.plan import Plan
from raq_client.reports.base import around_dict
from raq_client.reports.plain import plain
from raq_client.reports.plan import outcome_to_dict
from raq_client.reports.predicted import predicted_dict
from raq_client.reports.worst_case import domains_dict
from raq_solver.questions.audit import Audit


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain data for --json."""
    found = outcome_to_dict(plan.outcome, plan.table.source) | around_dict(plan)
    found["problem"] = plan.problem.digest()
    found["quant_types"] = list(plan.table.quant_types)
    found["predicted"] = predicted_dict(plan.predicted)
    if plan.spec.profile is not None:
        found["missing"] = missing_facts(plan.profile)
        found[FINGERPRINT] = plan.profile.provenance.get(FINGERPRINT)
        found[GRAM_DIGEST] = plan.profile.provenance.get(GRAM_DIGEST, "")
    if plan.worst_case is not None:
        worst = domains_dict(plan.worst_case)
        found["worst_case"] = worst
        if plan.outcome.ledger is not None:
            found |= {"loss": worst["worst"], "bound": worst["bound"], "gap": worst["gap"]}
    return found


def audit_dict(found: Audit) -> dict[str, Any]:
    """An audit as plain data for --json."""
    best = found.best.allocation
    return {
        "bytes": found.ledger.size,
        "loss": found.ledger.loss,
        "best_loss": None if found.best.ledger is None else found.best.ledger.loss,
        "excess": plain(found.excess),
        "broken": [str(fault) for fault in found.broken],
        "changes": plain(found.changes),
        "best": None if best is None else dict(best.types),
    }
