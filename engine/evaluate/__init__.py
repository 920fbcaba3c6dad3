"""Evaluation: models and interpolation baselines over data sets, and over suites of them.

`evaluate` measures over a loader, `test_config` one configuration, `suite` the paper's data sets
(`suite_data`) with results kept (`suite_results`), shown (`suite_report`) and drawn
(`suite_figures`). `metrics` are what is measured; `tables`, `charts` and `panels` show it.
"""

from engine.evaluate.evaluate import Evaluation, predict
from engine.evaluate.metrics import METRICS, EvalType, calc_ssim, make_measures
from engine.evaluate.suite import baseline_method, model_method, run_suites

__all__ = [
    "METRICS",
    "EvalType",
    "Evaluation",
    "baseline_method",
    "calc_ssim",
    "make_measures",
    "model_method",
    "predict",
    "run_suites",
]
