"""The metrics as functions (response, references) -> number, higher is better. A library is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignpipe_plugins.similarity.config import Metric, SimilarityConfig, missing

Compare = Callable[[str, Sequence[str]], float]


def comparison(config: SimilarityConfig) -> Compare:
    """The function of the configured metric.

    Raises `ConfigError` if its library is not installed.
    """
    try:
        if config.metric.library == "sacrebleu":
            return _overlap(config)
        if config.metric.library == "rouge-score":
            return _rouge(config.metric.name, config.stem)
        return _error_rate(config.metric)
    except ImportError as error:
        raise missing(config.metric) from error


def _overlap(config: SimilarityConfig) -> Compare:
    """Sentence BLEU or chrF of sacrebleu, as a share in place of percent."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if config.metric is Metric.bleu:
        # Effective order: a response of three words has no 4-grams, which must not make it worth nothing.
        scorer: BLEU | CHRF = BLEU(tokenize=config.bleu_tokenizer, effective_order=True)
    else:
        scorer = CHRF(word_order=2 if config.metric is Metric.chrf_pp else 0)
    return lambda response, references: float(scorer.sentence_score(response, list(references)).score) / 100


def _rouge(kind: str, stem: bool) -> Compare:
    """F1 of rouge-score, the best over the references."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=stem)
    return lambda response, references: max(
        float(scorer.score(reference, response)[kind].fmeasure) for reference in references
    )


def _error_rate(metric: Metric) -> Compare:
    """1 minus jiwer's word or character error rate, the best over the references."""
    import jiwer

    rate = jiwer.wer if metric is Metric.wer else jiwer.cer
    return lambda response, references: max(1.0 - float(rate(reference, response)) for reference in references)
