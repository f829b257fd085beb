"""File access. This package alone decides what may be opened, how a file is written, and how text from files is shown.

formats.py   every format that regraft opens; docs/security.md has the dangers of its reader and the defence
schema.py    checks of the JSON files that regraft reads back
onnx_form.py networks in ONNX form, parsed as data and checked node by node
pmml/        dense networks as PMML: written, and read from any tool
writing.py   atomic writing of files
replacing.py atomic replacement of folders
locks.py     locks: one process at a time writes into a folder
media.py     pictures and sounds, opened through `formats.py`
sizes.py     declared sizes of files and zip archives, checked before memory is allocated
pickles.py   pickles inside PyTorch files, parsed as a list of steps and never run
given.py     sources as the user named them: which exist, and what a missing one may have meant
remote.py    addresses such as s3:// as local copies
room.py      disk space that is really allocated, and arrays in files
scratch.py   temporary folders that may become large
text.py      text of unknown origin, made safe for a terminal, a log line or a spreadsheet
"""
