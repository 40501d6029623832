"""Reports and plots: what happened in a span of time, as one HTML file and CSV, and the curves of one run.

``facts`` reads, ``html``, ``svg`` and ``table`` write, ``plot`` draws. Refuses to invent: what nobody
measured is called unmeasured. No file refers to anything outside itself.
"""
