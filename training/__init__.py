"""The training loop and its state; what a supervision does in a step.

To add a supervision: a step (see `training.supervision`), entered in `SUPERVISIONS`.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.training.supervision import Supervision

SUPERVISIONS: "Registry[Supervision]" = Registry(
    "supervision",
    {"strong": "dhpf.training.supervision:strong_step", "weak": "dhpf.training.supervision:weak_step"},
)
