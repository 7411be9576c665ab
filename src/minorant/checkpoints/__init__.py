"""Fits that outlive an interrupt, a crash and a power cut.

``journal.py`` writes where a climb stands and takes it up again, ``file.py`` has the file's format,
``standing.py`` what is written of a climb, ``identity.py`` what tells one fit from another,
``status.py`` what can be asked from outside while it runs.
"""
