"""Sets of time: disjoint half-open spans in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]


class Spans:
    """A set of times in ms, kept as half-open spans that neither overlap nor touch.

    Parameters
    ----------
    spans : iterable of (int, int)
        In any order; empty ones are nothing.
    """

    __slots__ = ("_spans",)

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for start_ms, end_ms in spans:
            self.add(start_ms, end_ms)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __repr__(self) -> str:
        return f"Spans({self._spans})"

    @property
    def total_ms(self) -> int:
        """The sum of all lengths."""
        return sum(end_ms - start_ms for start_ms, end_ms in self._spans)

    def add(self, start_ms: int, end_ms: int) -> None:
        """Put a span in; what it overlaps or touches becomes one with it."""
        if start_ms >= end_ms:
            return
        apart = []
        for span in self._spans:
            if span[1] < start_ms or span[0] > end_ms:
                apart.append(span)
            else:
                start_ms, end_ms = min(start_ms, span[0]), max(end_ms, span[1])
        apart.append((start_ms, end_ms))
        self._spans = sorted(apart)

    def cut(self, start_ms: int, end_ms: int) -> None:
        """Take a span out."""
        self._spans = (
            [
                part
                for span in self._spans
                for part in ((span[0], min(span[1], start_ms)), (max(span[0], end_ms), span[1]))
                if part[0] < part[1]
            ]
            if start_ms < end_ms
            else self._spans
        )

    def within(self, start_ms: int, end_ms: int) -> list[Span]:
        """Return what of a span is in the set."""
        cut = ((max(span[0], start_ms), min(span[1], end_ms)) for span in self._spans)
        return [span for span in cut if span[0] < span[1]]

    def missing(self, start_ms: int, end_ms: int) -> list[Span]:
        """Return what of a span is not in the set."""
        rest = Spans([(start_ms, end_ms)])
        for span in self.within(start_ms, end_ms):
            rest.cut(*span)
        return list(rest)
