"""Many films: a manifest's rows, workers that make them, and a driver that loses nothing.

rows       a manifest becomes rows: what each film is made of
work       one row is made, by whoever has the model loaded
pool       workers that are processes of this machine
cluster    workers that are actors on Ray
archive    rows for workers that do not see the output's folder
drive      rows to workers, again where the cause of a failure may pass
command    ``segue batch``
"""
