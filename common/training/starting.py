"""Starting a training from the model that another one has trained."""

from __future__ import annotations

from common.errors import UserError
from common.networks.structured import StructuredNetwork
from common.runs.jobs import Training
from common.runs.records import TrainedModel, TrainedModelFacts


def load_start(training: Training, model: StructuredNetwork) -> TrainedModelFacts | None:
    """Gives a new model the weights of the one that its training starts from, if it starts from one.

    The method gets the state of that model's method, too, if both have one module; otherwise it stays new.

    Args:
        training: What is to be trained.
        model: Network and method.

    Returns:
        Where the weights come from; None if the training starts anew.

    Raises:
        UserError: The trained model is missing or damaged, or does not fit.
    """
    start = training.start
    if start is None:
        return None
    trained = TrainedModel.read(start.file, start)
    try:
        model.network.load_state_dict(trained.network)
        if start.entry.module == training.entry.module:
            model.method.load_state_dict(trained.method_state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"method_options.{training.method}.start: the model of {start.method} does not fit ({reason}): "
            "give both entries the same options of the model and of the method"
        ) from error
    return trained.facts
