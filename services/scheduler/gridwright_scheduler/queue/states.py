"""The states of an action, and the stages that clients see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from enum import IntEnum

from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_pb2 import ExecutionStage


class ActionState(IntEnum):
    """How far an action has come. The numbers are stored: never change one."""

    QUEUED = 1
    #: Leased to a bot.
    EXECUTING = 2
    #: The bot is through with it, and the scheduler is not yet.
    COMPLETING = 3
    COMPLETED = 4


TRANSITIONS: Mapping[ActionState, Set[ActionState]] = {
    ActionState.QUEUED: {ActionState.EXECUTING, ActionState.COMPLETED},
    ActionState.EXECUTING: {ActionState.QUEUED, ActionState.COMPLETING, ActionState.COMPLETED},
    ActionState.COMPLETING: {ActionState.QUEUED, ActionState.COMPLETED},
    ActionState.COMPLETED: set(),
}

_STAGES = {
    ActionState.QUEUED: ExecutionStage.QUEUED,
    ActionState.EXECUTING: ExecutionStage.EXECUTING,
    ActionState.COMPLETING: ExecutionStage.EXECUTING,
    ActionState.COMPLETED: ExecutionStage.COMPLETED,
}


def sources(target: ActionState) -> Sequence[ActionState]:
    """Return the states from which an action may come to *target*."""
    return [state for state, targets in TRANSITIONS.items() if target in targets]


def stage(state: ActionState) -> ExecutionStage.Value:
    """Return what clients are told of *state* (checklist EMD-03)."""
    return _STAGES[state]
