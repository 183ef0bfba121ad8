"""Fair comparison of models: the same data, arguments and seeds for each, with intervals.

arguments.py    training arguments
labels.py       names of the models
devices.py      devices of this machine or of a cluster
datasets.py     data, checked for the task
models.py       models, opened and built as the host's trainer does
step_time.py    seconds of one training step
preview.py      all these checks before anything is trained, with an estimate of the time
plan.py         the runs, their results, and the folder; a plan may grow
session.py      from the command to the report
executors.py    starts the runs, on devices of this machine or on a Ray cluster
processes.py    child processes, which end with their parent or on an interrupt
run.py          one run: trained by the host and measured
resume.py       exact resume of an interrupted run
provenance.py   versions and machine of a result
transfers.py    pretrained items, and whether the models start from comparable weights
validation.py   metrics of a trained model
object_sizes.py AP of small, medium and large objects
latency.py      latency of the fused models
metrics.py      the main metric, and short names
statistics.py   intervals and paired differences
simultaneous.py intervals adjusted for the number of variants: against the first model, and against the best
race.py         which variants a race drops
rounds.py       rounds of a race, and its budget
report.py       findings and notes
leaderboard.py  models by rank
tables.py       tables of the report
summary.py      summary.csv
plots.py        metric by epoch, metric against latency
formats.py      Markdown, LaTeX and HTML
"""
