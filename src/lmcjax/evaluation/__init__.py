"""Loss along a path, barriers, diagnosis of a failed match, and turning bad results into errors."""

from lmcjax.evaluation._barrier import BarrierResult as BarrierResult
from lmcjax.evaluation._barrier import barrier_along as barrier_along
from lmcjax.evaluation._barrier import linear_barrier as linear_barrier
from lmcjax.evaluation._diagnosis import Diagnosis as Diagnosis
from lmcjax.evaluation._diagnosis import Signature as Signature
from lmcjax.evaluation._diagnosis import diagnose as diagnose
from lmcjax.evaluation._finite import require_finite as require_finite
from lmcjax.evaluation._loss import LossAndAccuracy as LossAndAccuracy
from lmcjax.evaluation._loss import batched_loss as batched_loss
from lmcjax.evaluation._loss import cross_entropy_and_accuracy as cross_entropy_and_accuracy
