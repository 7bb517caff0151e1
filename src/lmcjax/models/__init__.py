"""Reference networks, each a pure init/apply pair."""

from lmcjax.models._build import MODELS as MODELS
from lmcjax.models._build import build_network as build_network
from lmcjax.models._build import find_function as find_function
from lmcjax.models._build import takes_width as takes_width
from lmcjax.models._mlp import MLP as MLP
from lmcjax.models._mlp import lecun_normal_per_neuron as lecun_normal_per_neuron
from lmcjax.models._network import FlaxNetwork as FlaxNetwork
from lmcjax.models._network import FunctionNetwork as FunctionNetwork
from lmcjax.models._network import Network as Network
from lmcjax.models._resnet import ResNet as ResNet
from lmcjax.models._resnet import resnet20 as resnet20
from lmcjax.models._resnet import resnet50 as resnet50
from lmcjax.models._transformer import TransformerEncoder as TransformerEncoder
from lmcjax.models._vgg import VGG as VGG
from lmcjax.models._vgg import vgg16 as vgg16
