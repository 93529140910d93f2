"""What methods must find where the truth is planted: noise in a corpus, and a domain twice.

Real runs of the tiny model on synthetic domains; the oracle tests of each method plant the rest
(the laws of ADO and Aioli, the optima of RegMix and mixing laws).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baselines.ado import ADO
from baselines.aioli import Aioli
from baselines.chameleon import Chameleon
from baselines.doge import DoGE
from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.odm import ODM
from baselines.shearing import Shearing
from baselines.skill_it import SkillIt
from harness.api import Mixer
from harness.corpus import TokenStore, open_corpus
from harness.influence.directional_estimator import Directional
from harness.runner import Runner
from harness.spec import Corpus, Evaluation, Optimizer, RunSpec, SyntheticDomain, Tokenizer
from harness.testing.world import ONLY_AT_THE_END, Onlooker, run_spec

LOOKS = {"rows": 4, "probe_rows": 8, "fidelity_every": 0, "estimator": Directional(check_rows=2)}


def domain(seed: int, branching: int = 2) -> SyntheticDomain:
    """Return sentences of a chain; as many successors as words make noise."""
    return SyntheticDomain(
        seed=seed, num_documents=80, words_per_document=60, num_words=60, branching=branching
    )


def spec_of(store: TokenStore, corpus: Corpus, mixer: Mixer, seed: int, steps: int) -> RunSpec:
    """Return a run whose target is the first domain."""
    return run_spec(
        store,
        corpus=corpus,
        mixer=mixer,
        num_steps=steps,
        targets={store.domains[0]: 1.0},
        optimizer=Optimizer(learning_rate=1e-2),
        evaluation=Evaluation(every=steps, rows=4),
        seed=seed,
        data_seed=seed,
    )


def mean_weights(
    corpus: Corpus, mixer: Mixer, seeds: tuple[int, ...], folder: Path, steps: int = 120
) -> dict[str, list[float]]:
    """Return each domain's mean weight in the main run, by seed."""
    store = open_corpus(corpus, folder / "corpora")
    runner = Runner(folder, store, ONLY_AT_THE_END, lambda spec: Onlooker())
    found = []
    for seed in seeds:
        spec = spec_of(store, corpus, mixer, seed, steps)
        found.append(spec.mixer.plan(spec, runner.ensure).weights.mean(0))
    return dict(zip(store.trained, torch.stack(found).T.tolist(), strict=True))


@pytest.mark.parametrize(
    ("mixer", "steps"),
    [
        (Influence(every=20, **LOOKS), 300),  # type: ignore[arg-type]
        (DoReMi(), 300),
        (SkillIt(objective="domains", eta=1.0, proxy_steps=40, probe_rows=8), 60),
    ],
    ids=["influence", "doremi", "skill_it"],
)
@pytest.mark.slow
def test_noise_gets_less_than_its_share(mixer: Mixer, steps: int, tmp_path: Path) -> None:
    """Words drawn at random teach nothing: less than a third of the weight, in two seeds.

    DoReMi's per-token clip rewards what is still being learned, and for the first hundred steps how
    often a word occurs is that, in noise too. Skill-It's rule multiplies by the loss, which stays
    high where nothing can be learned: it avoids noise early and comes back to it (at 300 steps with
    .35 and .38 in these two seeds).
    """
    domains = {"a": domain(1), "b": domain(2), "noise": domain(3, branching=60)}
    corpus = Corpus(domains=domains, tokenizer=Tokenizer(vocab_size=512))  # type: ignore[arg-type]

    weights = mean_weights(corpus, mixer, (0, 1), tmp_path, steps)

    for seed in (0, 1):
        assert weights["noise"][seed] < 0.3, weights


@pytest.mark.parametrize(
    "mixer",
    [
        Influence(every=20, **LOOKS),  # type: ignore[arg-type]
        DoReMi(proxy_steps=60),
        DoGE(objective="domains", mu=0.2, proxy_steps=60, probe_rows=4),
        SkillIt(objective="domains", eta=1.0, proxy_steps=20, probe_rows=8),
        Aioli(every=60, lp_rounds=2, lp_steps=4, eta=1.0, probe_rows=8),
        ODM(),
        ADO(start=40, every=40, ignore=10, stride=2, starts=4),
        Shearing(every=20, probe_rows=8, proxy_steps=60),
        Chameleon(regularization=0.1, rows=16, proxy_steps=60),
    ],
    ids=lambda mixer: type(mixer).__name__,
)
@pytest.mark.slow
def test_a_domain_that_is_there_twice_is_treated_alike(mixer: Mixer, tmp_path: Path) -> None:
    """Two domains of one language with other documents: their weights differ by noise.

    Three seeds; the mean difference is within what the seeds' own spread and a twentieth allow, and
    never above .15. The
    target is a third domain, so that none of the two is it.
    """
    domains = {"aim": domain(1), "one": domain(2), "two": domain(2)}
    domains["one"] = SyntheticDomain(
        seed=2, num_documents=79, words_per_document=61, num_words=60, branching=2
    )
    corpus = Corpus(domains=domains, tokenizer=Tokenizer(vocab_size=512))  # type: ignore[arg-type]

    weights = mean_weights(corpus, mixer, (0, 1, 2), tmp_path)

    gaps = torch.tensor(weights["one"]) - torch.tensor(weights["two"])
    allowed = min(0.05 + 2 * float(gaps.std()) / 3**0.5, 0.15)
    assert abs(float(gaps.mean())) < allowed, weights
    moved = max(abs(w - 1 / 3) for found in weights.values() for w in found)
    assert moved > 1e-3, "it never left the uniform mixture, so nothing was tested"
