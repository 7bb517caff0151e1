"""Stored results in numbers, tables and figures, in one style."""

from lmcjax.results._figures import plot_figure2 as plot_figure2
from lmcjax.results._figures import plot_sweep as plot_sweep
from lmcjax.results._measures import MATCHING_LABELS as MATCHING_LABELS
from lmcjax.results._measures import SWEPT_AXES as SWEPT_AXES
from lmcjax.results._measures import best_cell as best_cell
from lmcjax.results._measures import has_one_architecture as has_one_architecture
from lmcjax.results._measures import mean_and_std as mean_and_std
from lmcjax.results._measures import measured as measured
from lmcjax.results._measures import of_one_architecture as of_one_architecture
from lmcjax.results._measures import own_loss as own_loss
from lmcjax.results._measures import paired_difference as paired_difference
from lmcjax.results._pictures import OnFailure as OnFailure
from lmcjax.results._pictures import draw_picture as draw_picture
from lmcjax.results._style import COLOURS as COLOURS
from lmcjax.results._style import MARKERS as MARKERS
from lmcjax.results._style import PALETTE as PALETTE
from lmcjax.results._style import plain_log_ticks as plain_log_ticks
from lmcjax.results._style import save_figure as save_figure
from lmcjax.results._style import tidy as tidy
from lmcjax.results._tables import difference_table as difference_table
from lmcjax.results._tables import dimension_table as dimension_table
from lmcjax.results._tables import endpoint_table as endpoint_table
from lmcjax.results._tables import figure2_tables as figure2_tables
from lmcjax.results._tables import matching_table as matching_table
from lmcjax.results._tables import spread as spread
from lmcjax.results._tables import sweep_tables as sweep_tables
