"""The imports of the server from which the processes of tests are forked; see `forked_program`."""

import alembic.command  # noqa: F401

import basereward.cli.main
import basereward.evaluation.annotation.annotate
import basereward.evaluation.construction.publish
import basereward.evaluation.construction.select
import basereward.evaluation.run_benchmark
import basereward.metrics.figures
import basereward.model.attention.segment_attention
import basereward.model.families.supported.qwen_vl
import basereward.serve.run_server
import basereward.sweeps.sweep
import basereward.training.ensembles.make
import basereward.training.fit  # noqa: F401
import tests.helpers.support  # noqa: F401
from basereward.runs.tracking.mlflow_store import load_store
from basereward.runs.tracking.system_metrics import SystemMetrics  # noqa: F401

load_store()
