"""Every test runs offline, on one thread, without the libraries' progress bars."""

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from notices import AsWarnings

torch.set_num_threads(1)

logging.getLogger("segue").addHandler(AsWarnings())
