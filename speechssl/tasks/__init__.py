"""Training tasks: each owns its configuration, loss, health checks, cost and parameter names.

`task` is the protocol, `registry` the one list of tasks. wav2vec 2.0 is `wav2vec2` (its loss: `contrastive`), HuBERT is
`hubert` (`masked_prediction`), BEST-RQ is `best_rq` (`random_projection`), data2vec and DinoSR are `data2vec`
(`teacher`), fine-tuning is `recognition` (`ctc`). Installed packages add tasks through the entry point
`speechssl.tasks`, see docs/how_to/new_objective.md.
"""
