"""The terms of every group's similarity, and which of them count when a group is matched first."""

from collections.abc import Sequence

from jaxtyping import Array

from lmcjax.matching._assignments import similarity_of_hosts
from lmcjax.matching._pair import Pair
from lmcjax.matching._similarity import Similarity, Term, total
from lmcjax.transport import AssignmentBackend


class GroupTerms:
    """The terms of the groups of one pair, each made once."""

    def __init__(self, pair: Pair, similarity: Similarity) -> None:
        self.spec = pair.spec
        self.terms: dict[str, list[Term]] = {}
        for group in pair.spec.groups:
            self.terms[group] = list(similarity.terms(pair, group))

    def ready(self) -> dict[str, list[Term]]:
        """Per group the terms that count in a first pass over the groups.

        These are the terms that depend on groups only which are matched before; all terms, where
        there is none such. Guests are matched together with their host.
        """
        matched: set[str] = set()
        chosen: dict[str, list[Term]] = {}
        for group, terms in self.terms.items():
            settled = matched | set(self.spec.guests(group))
            ready = [term for term in terms if term.depends_on <= settled]
            chosen[group] = ready or terms
            matched.add(group)
        return chosen

    def settles_in_one_pass(self) -> bool:
        """Whether every group depends on groups only that are matched before it."""
        matched: set[str] = set()
        for group, terms in self.terms.items():
            settled = matched | set(self.spec.guests(group))
            if not all(term.depends_on <= settled for term in terms):
                return False
            matched.add(group)
        return True

    def similarity(
        self,
        group: str,
        permutations: dict[str, Array],
        chosen: Sequence[Term],
        backend: AssignmentBackend,
    ) -> Array:
        """The similarity by the chosen terms; that of a host is the best that its guests allow."""
        guests = set(self.spec.guests(group))
        if not guests:
            return total(chosen, permutations)

        def similarity_of_guest(guest: str, permutations: dict[str, Array]) -> Array:
            return total(self.terms[guest], permutations)

        by_guests = similarity_of_hosts(
            self.spec, group, similarity_of_guest, permutations, backend
        )
        # in the other terms the guests stand too, and are counted already
        own = [term for term in chosen if not term.depends_on & guests]
        return by_guests + total(own, permutations) if own else by_guests
