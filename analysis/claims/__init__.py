"""The claims that a study decides on, and how it does."""

from analysis.claims import lecture, published
from analysis.claims.base import Claim

CLAIMS: tuple[Claim, ...] = (*lecture.CLAIMS, *published.CLAIMS)
