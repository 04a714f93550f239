"""The ranges of hyper-parameters, shared by all methods and read by the recipe's check."""

from typing import Annotated

from pydantic import Field

Temperature = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
