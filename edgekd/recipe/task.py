"""[task]: the kind of the answers, with the keys of each kind. `kind = "classify"` is meant where the table is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from edgekd.base.texts import Text
from edgekd.base.toml_file import shown
from edgekd.recipe.section import Positive, Section

LARGEST_STRIDE = 64
LARGEST_LABEL = 255  # of a mask's pixel


class TaskSettings(Section):
    """The settings that all kinds of answers have: none. `of_labels` and `of_test` leave out what only trains."""

    only_trains: ClassVar[tuple[str, ...]] = ()
    label_loss: ClassVar[str] = "the task's own loss"
    """The loss of the labels in the report's words."""
    told: ClassVar[str] = "the answer"
    """What run.py prints for a sample, in README.txt's words."""

    @property
    def of_labels(self) -> Self:
        """The settings that shape the decoded labels."""
        return self.of_test

    @property
    def of_test(self) -> Self:
        """The settings that shape scores: those that only train stand at their defaults."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in self.only_trains})


class ClassifyTask(TaskSettings):
    """One class is right for each sample."""

    label_loss = "cross-entropy"
    told = "the likeliest classes"

    kind: Literal["classify"] = Field(default="classify", description="the kind of the answers")


class MultilabelTask(TaskSettings):
    """Any number of labels are right for each sample.

    The labels are a list in each row of parquet, texts with `;` between them in a CSV, or several columns of 0 and 1 that
    `data.label` lists.
    """

    label_loss = "binary cross-entropy of each label"
    told = "the labels above their thresholds"

    kind: Literal["multilabel"] = Field(
        description='the kind of the answers; "multilabel": each label is right or wrong'
    )
    classes: tuple[Text, ...] | None = Field(
        default=None, description="names of the labels, in their order; none: those of the data"
    )


class RegressTask(TaskSettings):
    """Each sample has one or more values, in the columns that `data.label` names."""

    label_loss = "half the squared error"
    told = "each value with its name"

    kind: Literal["regress"] = Field(description='the kind of the answers; "regress": one or more values')


class SegmentTask(TaskSettings):
    """Each pixel has one class. A mask is a picture whose pixels are numbers of classes."""

    only_trains = ("class_weights", "stride")
    label_loss = "cross-entropy of each pixel"
    told = "the share of each class, and the mask as cat.mask.png (--mask FILE.png: elsewhere)"

    kind: Literal["segment"] = Field(description='the kind of the answers; "segment": a class for each pixel')
    classes: tuple[Text, ...] = Field(min_length=2, description="names of the classes 0, 1, ... of the masks")
    ignore_index: int = Field(
        default=LARGEST_LABEL, ge=0, le=LARGEST_LABEL, description="pixels of this number are neither learnt nor scored"
    )
    class_weights: tuple[Positive, ...] | None = Field(
        default=None, description="weight of each class in the label loss; none: 1"
    )
    stride: int = Field(
        default=4,
        ge=1,
        le=LARGEST_STRIDE,
        description="of the teacher's logits every stride-th pixel of both axes is recorded; each sample and view draws the first",
    )

    @model_validator(mode="after")
    def _weights_and_numbers_fit_the_classes(self) -> Self:
        if self.class_weights is not None and len(self.class_weights) != len(self.classes):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers, classes has {len(self.classes)}; give one for each class"
            )
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index = {self.ignore_index} given, which is the number of class '{self.classes[self.ignore_index]}'; give "
                f"one from {len(self.classes)} to {LARGEST_LABEL}"
            )
        return self


def _kind_of(task: Any) -> str:
    """The kind that a [task] table names: classify where it names none."""
    named = task.get("kind", "classify") if isinstance(task, Mapping) else getattr(task, "kind", "classify")
    return named if isinstance(named, str) else shown(named)


AnyTask = Annotated[
    Annotated[ClassifyTask, Tag("classify")]
    | Annotated[MultilabelTask, Tag("multilabel")]
    | Annotated[RegressTask, Tag("regress")]
    | Annotated[SegmentTask, Tag("segment")],
    Discriminator(_kind_of),
]
"""[task] of each kind, by the word that `task.kind` has for it."""
