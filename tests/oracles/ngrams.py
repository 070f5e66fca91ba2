"""Interpolated modified Kneser-Ney from its formulas, with sets, dictionaries and recursion."""

from collections import defaultdict
from collections.abc import Sequence

Gram = tuple[str, ...]


def grams(sentences: Sequence[Sequence[str]], n: int) -> dict[Gram, int]:
    found: dict[Gram, int] = defaultdict(int)
    for sentence in sentences:
        padded = ("<s>", *sentence, "</s>")
        for begin in range(len(padded) - n + 1):
            found[padded[begin : begin + n]] += 1
    return dict(found)


class OracleKneserNey:
    """A model asked for one probability at a time."""

    def __init__(self, sentences: Sequence[Sequence[str]], order: int, prune: Sequence[int]) -> None:
        self.raw = {n: grams(sentences, n) for n in range(1, order + 2)}
        self.order = order
        self.prune = [*prune, *[prune[-1]] * (order - len(prune))]
        self.predicted = sorted({word for sentence in sentences for word in sentence} | {"<unk>", "</s>"})
        self.counts = {n: {gram: self.count(gram) for gram in self.raw[n]} for n in range(1, order + 1)}
        del self.counts[1]["<s>",]
        self.discounts = {n: self.discount(n) for n in self.counts}

    def count(self, gram: Gram) -> int:
        if len(gram) == self.order or gram[0] == "<s>":
            return self.raw[len(gram)][gram]
        return sum(longer[1:] == gram for longer in self.raw[len(gram) + 1])

    def discount(self, n: int) -> list[float]:
        having = [sum(count == k for count in self.counts[n].values()) for k in range(5)]
        if 0 in having[1:4]:
            return [0, 0.5, 1.0, 1.5]
        share = having[1] / (having[1] + 2 * having[2])
        found = [0.0, *(k - (k + 1) * share * having[k + 1] / having[k] for k in (1, 2, 3))]
        return found if all(0 <= value <= k for k, value in enumerate(found)) else [0, 0.5, 1.0, 1.5]

    def probability(self, word: str, history: Gram) -> float:
        """Return P(word | history) of the interpolated model."""
        n = len(history) + 1
        lower = self.probability(word, history[1:]) if history else 1 / len(self.predicted)
        follow = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == history}
        if not follow:
            return lower
        total, own, left = sum(follow.values()), 0.0, 0.0
        for gram, count in follow.items():
            is_pruned = n > 1 and self.raw[n][gram] <= self.prune[n - 1]
            taken = count if is_pruned else self.discounts[n][min(count, 3)]
            left += taken
            if gram[-1] == word:
                own = count - taken
        return own / total + left / total * lower
