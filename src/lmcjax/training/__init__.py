"""One training run as a pure function; many at once."""

from lmcjax.training._memory import bytes_per_network as bytes_per_network
from lmcjax.training._memory import memory_budget as memory_budget
from lmcjax.training._memory import networks_per_call as networks_per_call
from lmcjax.training._train import Optimizer as Optimizer
from lmcjax.training._train import TrainConfig as TrainConfig
from lmcjax.training._train import TrainResult as TrainResult
from lmcjax.training._train import TrainState as TrainState
from lmcjax.training._train import init_state as init_state
from lmcjax.training._train import learning_rate_schedule as learning_rate_schedule
from lmcjax.training._train import mean_cross_entropy as mean_cross_entropy
from lmcjax.training._train import train as train
from lmcjax.training._train import train_steps as train_steps
from lmcjax.training._train_networks import train_in_calls as train_in_calls
from lmcjax.training._train_networks import train_networks as train_networks
