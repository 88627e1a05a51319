"""The contract of methods: what every file of `methods/` keeps, as checks that need nothing but the project.

`python -m common check method <name>` runs them on one file, and the tests on every file found. Each check is
a function of a `Specimen` that raises a UserError in a sentence; its name says what it checks.
"""

from __future__ import annotations

from common.errors import UserError
from common.networks.hooks import described, place
from common.training.contract import files, losses, outputs
from common.training.contract.specimen import Check, Specimen

__all__ = ["CHECKS", "Check", "Specimen", "failure", "title"]

CHECKS: tuple[Check, ...] = (
    files.can_be_loaded,
    files.is_documented_and_has_defaults,
    files.imports_nothing_of_common_but_kernels_and_labels,
    files.can_be_built_for_any_number_of_classes,
    files.skip_gives_a_reason_or_none,
    outputs.trains_and_predicts_with_a_network,
    outputs.structure_gives_logits_on_the_grid_that_it_declares,
    losses.parameters_get_gradients,
    files.parameters_are_registered,
    losses.what_is_prepared_is_the_same_each_time,
    losses.loss_is_a_finite_scalar_with_a_correct_gradient,
    losses.loss_prefers_the_truth,
    losses.void_changes_nothing,
    losses.loss_survives_void_and_absent_classes,
    losses.loss_refuses_labels_that_are_no_class,
    losses.logits_that_are_not_finite_give_such_a_loss,
    losses.bfloat16_logits_are_computed_in_float32,
    outputs.probabilities_and_refinements_sum_to_one,
    outputs.probabilities_are_in_the_order_of_the_logits,
    outputs.auxiliary_loss_is_a_scalar_and_diagnostics_are_numbers,
    outputs.inputs_are_left_as_they_are,
    files.state_goes_through_a_file,
)
"""All checks, in the order in which a new file is likely to fail them."""


def failure(check: Check, specimen: Specimen) -> str | None:
    """Runs a check.

    Returns:
        What is wrong, in a sentence, or None.
    """
    try:
        check(specimen)
    except UserError as error:
        return str(error)
    except Exception as error:  # a method may fail in any way
        return f"{place(specimen.kind, error)} fails with {described(error)}"
    return None


def title(check: Check) -> str:
    """What a check checks: the name of its function."""
    return check.__name__.replace("_", " ")
