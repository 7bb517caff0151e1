"""Real data sets as arrays, no network needed for the default."""

from lmcjax.data._datasets import Dataset as Dataset
from lmcjax.data._datasets import Samples as Samples
from lmcjax.data._datasets import evenly_spaced as evenly_spaced
from lmcjax.data._datasets import load_dataset as load_dataset
from lmcjax.data._datasets import stratified_split as stratified_split
from lmcjax.data._idx import read_idx as read_idx
