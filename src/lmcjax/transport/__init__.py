"""Optimal transport between two clouds of neurons."""

from lmcjax.transport._assignment import AssignmentBackend as AssignmentBackend
from lmcjax.transport._assignment import linear_assignment as linear_assignment
from lmcjax.transport._certificate import AssignmentCertificate as AssignmentCertificate
from lmcjax.transport._certificate import assignment_certificate as assignment_certificate
from lmcjax.transport._plan import exact_plan as exact_plan
from lmcjax.transport._sinkhorn import SinkhornPlan as SinkhornPlan
from lmcjax.transport._sinkhorn import sinkhorn_plan as sinkhorn_plan
from lmcjax.transport._wasserstein import wasserstein2 as wasserstein2
