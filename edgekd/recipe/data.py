"""[data]: the keys that all kinds of input have, and those of images. Each other kind has a file beside this one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from edgekd.base.names import class_problem, text_problem
from edgekd.base.texts import Text
from edgekd.base.toml_file import shown
from edgekd.errors import nearest
from edgekd.recipe.section import MOST, NonNegative, Positive, Section

SYNTHESES = ("deep_inversion", "dafl", "dfq")
MOST_PIXELS = 1 << 15  # the largest side of an image


class Mixing(Section):
    """The augmentation that all kinds of input have."""

    mixup: NonNegative = Field(default=0.0, le=1000, description="alpha of Beta(alpha, alpha); 0 is off")


def _place_or_share(value: Any) -> Any:
    """A path, a `python:` reference or a share of train. Raises ValueError for anything else."""
    if isinstance(value, str) and value and not value.rstrip().endswith("%"):
        if problem := text_problem(value):
            raise ValueError(f"{value[:60]!a} given; {problem}")
        return value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise ValueError(
            f"{shown(value)} given; name test samples of their own, or write the share of train between 0 and 1, as 0.2"
        )
    return value


class Splits(Section):
    """The two splits. Each is a folder, a file, a pattern of files, or `python:module:function`; test may be a share of train."""

    train: Text = Field(description="training samples, of teacher and student")
    test: Annotated[str | float, BeforeValidator(_place_or_share)] = Field(
        description="test samples, read by the final check only; a number, as 0.2: about that share of each class of train, drawn by the content "
        "of each sample"
    )
    test_seed: int = Field(
        default=0, ge=0, lt=2**63, description="if test is a share: another seed draws other samples"
    )


class Part(Section):
    """The part of the samples that a split takes where both splits are drawn from one source.

    share: of each class, what test takes; `edgekd.data.parts` draws it.
    """

    split: Literal["train", "test"]
    share: float
    seed: int


class Reading(Section):
    """The settings for reading the samples of a split. A kind of input adds its own."""

    shapes_nothing = frozenset({"store_gb"})

    input: str
    column: Text | None = None
    label: Text | tuple[Text, ...] | None = Field(
        default=None, description="column of the labels, or a list of columns of values; none: label or labels"
    )
    classes: tuple[Text, ...] | None = Field(
        default=None,
        description="names of the classes, in their order; none: those of the data, sorted where they are texts",
    )
    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="if a sample cannot be decoded: stop, or skip the sample"
    )
    store_gb: Positive | None = Field(
        default=None, description="largest size of the decoded samples; none: half of the free disk"
    )

    @field_validator("classes")
    @classmethod
    def _classes_are_names(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None:
            if problem := class_problem(classes):
                raise ValueError(problem)
            if twice := sorted({name for name in classes if classes.count(name) > 1}):
                raise ValueError(f"{', '.join(twice)} given more than once; name each class once")
            if len(classes) < 2:
                raise ValueError(f"{len(classes)} given; at least two classes are needed")
        return classes


class AnySource(Reading):
    """A split with its settings for reading: everything that shapes its decoded store."""

    references = frozenset({"files"})

    files: Text
    part: Part | None = None


class AnyData(Reading, Splits):
    """The samples, the hold-out split and augmentation, whatever the kind of input."""

    references = frozenset({"train", "test"})
    decoded = frozenset({"train", "test", "test_seed"})
    source_of: ClassVar[type[AnySource]]
    only_trains: ClassVar[tuple[str, ...]] = ("holdout", "augment", "seed")  # fields that do not shape the test split

    holdout: float = Field(default=0.05, gt=0, lt=0.5, description="share of train that is held out to decide choices")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the hold-out split and of the views")
    augment: Mixing = Field(default=Mixing(), description="augmentation of the training samples")

    def source(self, split: Literal["train", "test"]) -> AnySource:
        """The settings that shape the decoded store of a split, and no others. A data-free build has a test split only."""
        names = self.source_of.model_fields.keys() & type(self).model_fields.keys()
        settings = {name: getattr(self, name) for name in names}
        if not isinstance(self.test, str):
            part = Part(split=split, share=self.test, seed=self.test_seed)
            return self.source_of.model_construct(files=self.train, part=part, **settings)
        files = self.test if split == "test" or self.is_synthetic else self.train
        return self.source_of.model_construct(files=files, **settings)

    @property
    def of_test(self) -> Self:
        """The settings that shape the test split: no hold-out, no augmentation."""
        fixed = {name: type(self).model_fields[name].default for name in self.only_trains}
        return self.model_copy(update={**fixed, "train": self.test if isinstance(self.test, str) else self.train})

    @property
    def is_synthetic(self) -> bool:
        """Whether the training samples are made from the teacher, so that the recipe names none."""
        return self.train.startswith("synthetic:")

    def canonical(self) -> Self:
        """The settings with unused ones at their defaults."""
        return self if not isinstance(self.test, str) else self.model_copy(update={"test_seed": 0})

    @model_validator(mode="after")
    def _a_share_is_one_of_samples(self) -> Self:
        if self.is_synthetic and not isinstance(self.test, str):
            raise ValueError(f"test = {self.test:g} given; made images have no share for it: name test samples")
        return self


class Augmentation(Mixing):
    """The changes from a stored image to a training view. A view replays exactly (see edgekd.data.views)."""

    crop_padding: int = Field(
        default=0, ge=0, le=MOST_PIXELS, description="pixels of zero padding before a random crop back to the size"
    )
    flip: bool = Field(default=False, description="mirrors half of the images")
    jitter: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="brightness, contrast and saturation each change by up to this share, as 0.2; grey pictures have no saturation",
    )
    cutout: int = Field(
        default=0, ge=0, le=MOST_PIXELS, description="side in pixels of a square that is filled with one colour"
    )
    fill: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        default=None, description="cut-out's colour per channel, in 0..1; none: data.mean"
    )


class ImageReading(Reading):
    """The settings for reading images."""

    # Excluded: what a recipe of images is stored as, and its keys, are those of a recipe without the word.
    input: Literal["image"] = Field(default="image", exclude=True, description="the kind of the samples")
    column: Text | None = Field(default=None, description="column of the images in parquet; none: image or img")
    size: tuple[Annotated[int, Field(ge=1, le=MOST_PIXELS)], Annotated[int, Field(ge=1, le=MOST_PIXELS)]] | None = (
        Field(default=None, description="height, width to which images are resized; none: their own size")
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1: the luma alone; none: 3 for pictures, an array's own number"
    )


class Source(ImageReading, AnySource):
    """A split of images with its settings for reading."""


class Synthetic(Section):
    """The number of images that a data-free build makes, and its optimizer steps and batch."""

    samples: int = Field(default=10_000, ge=1, le=MOST, description="number of images")
    steps: int | None = Field(default=None, ge=1, le=MOST, description="optimizer steps; none: the method's own number")
    batch: int | None = Field(
        default=None, ge=1, le=MOST, description="images per batch; none: the method's own number"
    )


class Data(ImageReading, AnyData):
    """Images: the samples, the hold-out split, normalisation and augmentation.

    `train = "synthetic:deep_inversion"` (or dafl, dfq) makes the training images from the teacher alone
    (edgekd.distill.data_free).
    """

    source_of = Source
    only_trains = (*AnyData.only_trains, "synthetic")

    mean: tuple[float, ...] = Field(default=(0.5, 0.5, 0.5), description="mean per channel, of values in 0..1")
    std: tuple[Positive, ...] = Field(
        default=(0.5, 0.5, 0.5), description="standard deviation per channel, of the same values"
    )
    augment: Augmentation = Field(default=Augmentation(), description="augmentation of the training images")
    synthetic: Synthetic = Field(default=Synthetic(), description="settings if train is synthetic")

    def canonical(self) -> Self:
        """The settings with those of synthetic images at their defaults where there are none."""
        settled = super().canonical()
        return settled if self.is_synthetic else settled.model_copy(update={"synthetic": Synthetic()})

    @model_validator(mode="after")
    def _synthesis_is_known(self) -> Self:
        method = self.train.partition(":")[2]
        if self.is_synthetic and method not in SYNTHESES:
            raise ValueError(f"train = {self.train!r} is no way to make images{nearest(method, SYNTHESES)}")
        return self

    @model_validator(mode="after")
    def _mean_and_std_are_of_the_same_channels(self) -> Self:
        if max(self.mean, default=0) > 1:
            raise ValueError(
                f"mean = {max(self.mean):g} given; it is of values in 0..1: divide a mean of 0..255 by 255, and std too"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} channels, std has {len(self.std)}; give one figure a channel each"
            )
        return self
