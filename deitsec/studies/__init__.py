"""Measured claims: one command trains, attacks and writes the page with our figures and theirs."""

from deitsec.studies.registry import STUDIES, study
from deitsec.studies.study import Page, Study, StudyRun
from deitsec.studies.written import page_name, page_of, reproduce

__all__ = ["STUDIES", "Page", "Study", "StudyRun", "page_name", "page_of", "reproduce", "study"]
