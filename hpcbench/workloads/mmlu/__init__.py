"""MMLU on a local model: ``python -m mmlu --help``.

Stand-alone: Python >= 3.10, torch and transformers. The questions, the prompts and their scoring need the standard
library alone, and are those of the endpoint's form of the benchmark, too. hpcbench sends the folder along with a job.
"""
