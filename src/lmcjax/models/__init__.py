"""Reference networks, each a pure init/apply pair."""

from lmcjax.models._mlp import MLP as MLP
from lmcjax.models._mlp import lecun_normal_per_neuron as lecun_normal_per_neuron
from lmcjax.models._network import FlaxNetwork as FlaxNetwork
from lmcjax.models._network import Network as Network
