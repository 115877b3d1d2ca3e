"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

import shlex
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import gather, start_processes
from dhpf.common.program import echo
from dhpf.common.run import RESULTS, Run, progress, replace_run, versions
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark
from dhpf.data.own_data import OwnData
from dhpf.evaluation.external_predictions import external_rows, is_table, read_external
from dhpf.evaluation.partial_predictions import PartialPredictions, fingerprint
from dhpf.evaluation.predictions import read_predictions, table_of
from dhpf.evaluation.results import describe, rescore, save_results
from dhpf.evaluation.train_test_overlap import read_training_images
from dhpf.matching.matcher import Matcher
from dhpf.matching.predict import in_order, predict
from dhpf.model.dhpf import DHPF
from dhpf.programs import run_program
from dhpf.programs.models import open_model, requested_ablation
from dhpf.programs.options import dated_folder, flag, own_data_options, run_folder, to_save
from dhpf.report.test_report import TestRun, report_test, resources
from dhpf.weights.config import ModelConfig
from dhpf.weights.released import resolve


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("test", arguments)


def run(options: Namespace) -> None:
    if options.from_predictions:
        measure_predictions(options)
    else:
        evaluate(options)
