"""A comparison of models that a reviewer would believe: the same data, arguments and seeds for each, with intervals.

    plan.py        which runs there are, and what each has come to; the folder on disk
    session.py     from the command to the report
    schedule.py    who runs next and where: devices of this machine, or a Ray cluster
    statistics.py  intervals and paired differences
    sizes.py       AP of small, medium and large objects
    report.py      what the tables and sentences say
    forms.py       Markdown, HTML and LaTeX
    plots.py       curves by epoch, accuracy against latency

One run itself, which is the host's training, is `yolo_coordbifpn.compare.run`.
"""
