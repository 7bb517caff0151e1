"""lmcjax: linear mode connectivity of neural networks by optimal transport, in JAX.

spec = mlp_spec(num_hidden_layers=3)
matching = match_layerwise(spec, params_a, params_b, similarity=Weights())
aligned = permute(spec, matching.permutations, params_b)
barrier = linear_barrier(loss_fn, params_a, aligned)
"""

import importlib.metadata as _metadata

from lmcjax.batching import network_map as network_map
from lmcjax.batching import use_all_cores as use_all_cores
from lmcjax.data import Dataset as Dataset
from lmcjax.data import load_dataset as load_dataset
from lmcjax.evaluation import BarrierResult as BarrierResult
from lmcjax.evaluation import Diagnosis as Diagnosis
from lmcjax.evaluation import LossAndAccuracy as LossAndAccuracy
from lmcjax.evaluation import batched_loss as batched_loss
from lmcjax.evaluation import cross_entropy_and_accuracy as cross_entropy_and_accuracy
from lmcjax.evaluation import diagnose as diagnose
from lmcjax.evaluation import linear_barrier as linear_barrier
from lmcjax.evaluation import require_finite as require_finite
from lmcjax.frameworks import from_equinox as from_equinox
from lmcjax.frameworks import from_haiku as from_haiku
from lmcjax.frameworks import from_nnx as from_nnx
from lmcjax.frameworks import from_torch as from_torch
from lmcjax.frameworks import to_equinox as to_equinox
from lmcjax.frameworks import to_haiku as to_haiku
from lmcjax.frameworks import to_nnx as to_nnx
from lmcjax.frameworks import to_torch as to_torch
from lmcjax.interpolation import interpolate as interpolate
from lmcjax.matching import Activations as Activations
from lmcjax.matching import Correlation as Correlation
from lmcjax.matching import Covariance as Covariance
from lmcjax.matching import Matching as Matching
from lmcjax.matching import Similarity as Similarity
from lmcjax.matching import Weights as Weights
from lmcjax.matching import approximate_dimensions as approximate_dimensions
from lmcjax.matching import covariance_distance as covariance_distance
from lmcjax.matching import load_matching as load_matching
from lmcjax.matching import match_annealing as match_annealing
from lmcjax.matching import match_coordinate_descent as match_coordinate_descent
from lmcjax.matching import match_frank_wolfe as match_frank_wolfe
from lmcjax.matching import match_layerwise as match_layerwise
from lmcjax.matching import match_sinkhorn as match_sinkhorn
from lmcjax.matching import match_soft as match_soft
from lmcjax.matching import match_straight_through as match_straight_through
from lmcjax.matching import midpoint_loss as midpoint_loss
from lmcjax.matching import random_point_loss as random_point_loss
from lmcjax.matching import save_matching as save_matching
from lmcjax.matching import weight_distance as weight_distance
from lmcjax.models import MLP as MLP
from lmcjax.models import VGG as VGG
from lmcjax.models import FlaxNetwork as FlaxNetwork
from lmcjax.models import FunctionNetwork as FunctionNetwork
from lmcjax.models import ResNet as ResNet
from lmcjax.models import TransformerEncoder as TransformerEncoder
from lmcjax.models import resnet20 as resnet20
from lmcjax.models import resnet50 as resnet50
from lmcjax.models import vgg16 as vgg16
from lmcjax.statistics import ActivationMoments as ActivationMoments
from lmcjax.statistics import Moments as Moments
from lmcjax.statistics import activation_moments as activation_moments
from lmcjax.statistics import approximate_dimension as approximate_dimension
from lmcjax.statistics import independence_test as independence_test
from lmcjax.statistics import neuron_coordinates as neuron_coordinates
from lmcjax.sweep import Sweep as Sweep
from lmcjax.sweep import load_networks as load_networks
from lmcjax.sweep import run_sweep as run_sweep
from lmcjax.symmetry import PermutationSpec as PermutationSpec
from lmcjax.symmetry import apply_soft as apply_soft
from lmcjax.symmetry import compose as compose
from lmcjax.symmetry import discover as discover
from lmcjax.symmetry import explain as explain
from lmcjax.symmetry import identity_permutations as identity_permutations
from lmcjax.symmetry import invert as invert
from lmcjax.symmetry import mlp_spec as mlp_spec
from lmcjax.symmetry import permute as permute
from lmcjax.symmetry import random_permutations as random_permutations
from lmcjax.symmetry import tap as tap
from lmcjax.symmetry import verify as verify
from lmcjax.theory import matching_lower_bound as matching_lower_bound
from lmcjax.theory import propagate as propagate
from lmcjax.training import TrainConfig as TrainConfig
from lmcjax.training import TrainResult as TrainResult
from lmcjax.training import train as train
from lmcjax.training import train_networks as train_networks
from lmcjax.transport import assignment_certificate as assignment_certificate
from lmcjax.transport import exact_plan as exact_plan
from lmcjax.transport import linear_assignment as linear_assignment
from lmcjax.transport import sinkhorn_plan as sinkhorn_plan
from lmcjax.transport import wasserstein2 as wasserstein2

try:
    __version__ = _metadata.version("lmcjax")
except _metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"
