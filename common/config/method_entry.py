"""An entry of methods: what a configuration sets under one name of `method_options`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import methods
from common import compiler
from common.config.method_class import check_built, check_class
from common.config.method_facts import cannot_be_loaded, method_facts
from common.errors import UserError

if TYPE_CHECKING:
    from methods.base import Grid, Method

Kind = Literal["method", "alternative"]
"""What a row of the tables is: a method, or what else its cost would buy."""

SECTIONS = ("training", "evaluation", "model")
"""What an entry may change: settings of the sections of these names, and options of the model."""

DEFINING = ("module", "trained_as", "start", "freeze", "ensemble")
"""The keys of an entry that say what it is, on every dataset."""

KEYS = (*DEFINING, *SECTIONS, "predictions", "colour_coded", "per_dataset", "tuned", "skip")
"""The keys of an entry that are no options of its method."""


@dataclass(frozen=True)
class Ensemble:
    """Several models whose probabilities are averaged.

    Attributes:
        of: The entry that says how each of them is trained and refined.
        members: How many they are.
    """

    of: str
    members: int


@dataclass(frozen=True)
class MethodEntry:
    """A method as the configuration names it.

    Attributes:
        name: The name of the entry.
        module: The module of `methods/`.
        options: All options of the module, defaults included.
        trained_as: The entry whose trained model is reused, or None.
        training: Settings of training that it has otherwise than others.
        evaluation: Settings of evaluation that it has otherwise than others.
        model: Options of the model that it has otherwise than others.
        start: The entry whose trained model its training starts from, or None.
        freeze: What of that model stays as it is: the network, or nothing.
        ensemble: The models that are averaged, if it is one of several.
        tuned: What is said of the search that has chosen its options; no result depends on it. Its
            `settings` are the names of what the search could choose.
        skip: Why it is not run, by the names of datasets and models.
    """

    name: str
    module: str
    options: dict[str, Any]
    trained_as: str | None
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    freeze: Literal["network"] | None = None
    ensemble: Ensemble | None = None
    tuned: dict[str, Any] | None = None
    skip: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Whether it is a method, or what else the cost of one would buy.

        That is more of the same: an ensemble, or a method under another name that is trained, evaluated or
        built in another way. What a search has chosen for the training makes no alternative of a method, nor
        does going on from another entry's model.
        """
        if self.ensemble:
            return "alternative"
        searched = (self.tuned or {}).get("settings", ())
        changed = self.evaluation or self.model or {f"training.{key}" for key in self.training} - {*searched}
        return "alternative" if changed and self.name != self.module and not self.start else "method"

    @property
    def grid(self) -> Grid:
        """How many times finer than the network's output grid its logits are, or `full`."""
        return self.options.get("grid", method_facts(self.module).grid)

    def with_options(self, options: Mapping[str, Any]) -> MethodEntry:
        """The entry with other values of some options."""
        return dataclasses.replace(self, options={**self.options, **options})

    def build(self, num_classes: int, feature_channels: int) -> Method:
        """Creates the method.

        Args:
            num_classes: K, the number of classes without void.
            feature_channels: C, the channels of the features in front of the classifier.

        Raises:
            UserError: The method cannot be built: it refuses an option, or is not as a method must be.
        """
        from common.networks.hooks import described, of_machine, place  # imports PyTorch

        try:
            with compiler.put_off():
                kind = methods.load(self.module)
            check_class(kind)
        except (Exception, SystemExit) as error:  # a user's own file may fail in any way
            raise cannot_be_loaded(self.module, error) from error
        try:
            built = kind(num_classes, feature_channels, **self.options)
        except ValueError as error:
            raise UserError(f"method_options.{self.name}: {error}") from error
        except Exception as error:
            if isinstance(error, UserError) or of_machine(error):
                raise
            raise UserError(
                f"{place(kind, error)}: __init__ fails with {described(error)} (method_options.{self.name})"
            ) from error
        try:
            check_built(built, self.grid)
        except ValueError as error:
            raise UserError(f"methods/{self.module}.py: {error}") from None
        return built


@dataclass(frozen=True)
class PredictionsEntry:
    """A row of the tables that is read from a folder: the predictions of another system.

    Attributes:
        name: The name of the entry.
        folder: Where the predictions lie; it may have placeholders in braces.
        colour_coded: Whether they are drawn in the colours of the dataset's classes.
    """

    name: str
    folder: str
    colour_coded: bool = False
