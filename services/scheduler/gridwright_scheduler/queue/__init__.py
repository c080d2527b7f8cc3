"""What the scheduler decides: a heart without I/O.

Theory of operation
-------------------
An *operation* is one Execute call; an *action* is the work that one or several operations
wait for. An action is QUEUED until a bot with a free slot can serve its *requirements*
(``matching``); then it is EXECUTING under a *lease*, whose id is new at each attempt and
so is the fence: whatever is said of an action under another lease id changes nothing. What
a bot reports of its leases is compared with what it was given (``leases``), the end of a
lease is judged (``retry``), and the judgement settled into the action's next state
(``settling``): COMPLETED, QUEUED once more, or COMPLETING, which means that something
outside is still to be done, the action cache written or the inputs looked for, and which
is stored so that a scheduler that dies in between does it after its restart.

Everything here is a plain function of plain values and protocol documents. The shell
around it (``database`` and the modules beside it) carries the decisions out.
"""
