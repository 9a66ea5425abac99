"""The weights of the terms of the loss (losses.py), which a configuration holds. Nothing here needs torch."""

from pydantic import Field, model_validator

from calib.settings import Settings

__all__ = ["LossWeights"]


class LossWeights(Settings):
    """The share of each term in the loss; at least one is above 0."""

    kl: float = Field(default=1.0, ge=0, description="weight of the KL divergence from the teacher")
    ce: float = Field(default=0.0, ge=0, description="weight of the cross entropy with the text")
    dad: float = Field(default=0.0, ge=0, description="weight of deviation-aware distillation")
    gamma: float = Field(
        default=0.1, ge=0, le=1, description="exponent of the teacher's entropy in DAD; the student's has 1 - gamma"
    )
    mse: float = Field(default=0.0, ge=0, description="weight of the mean square of logit differences")
    mse_shift: bool = Field(
        default=False, description="count what shifts all logits of a token alike, too, which no softmax sees"
    )
    features: float = Field(default=0.0, ge=0, description="weight of the relative squared error of block outputs")

    @model_validator(mode="after")
    def _some_loss(self) -> "LossWeights":
        if not self.kl + self.ce + self.dad + self.mse + self.features:
            raise ValueError("expected a positive weight for kl, ce, dad, mse or features")
        return self

    @property
    def needs_teacher(self) -> bool:
        """The loss looks at the teacher."""
        return self.kl + self.dad + self.mse + self.features > 0
