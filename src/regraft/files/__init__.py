"""The only package that decides what may be opened, how a file is written, and how text from files is shown.

formats.py   every format that regraft opens: its reader, what that reader could be made to do, and what regraft does instead
schema.py    checks of the JSON files that regraft reads back
onnx_form.py networks in ONNX form, parsed as data and checked node by node
pmml_form.py dense networks as PMML, written; pmml_reading.py: read from whichever tool wrote them
writing.py   files, whole or not at all
replacing.py folders, whole or not at all
locks.py     one process at a time writes into a folder
archives.py  zip archives, looked through before anything in them is read
pickles.py   the pickles inside files of PyTorch, read as a list of steps and never run
media.py     pictures and sounds, opened through `formats.py`
sizes.py     what a file may declare that it holds, before memory is taken for it
text.py      text of unknown origin, made safe for a terminal, a log line or a spreadsheet
"""
