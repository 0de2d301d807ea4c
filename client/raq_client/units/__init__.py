"""Units of work: long commands cut into independent parts, and the machines that carry them out.

A unit is a pure function of what its job's key digests; its result is one line of JSON. The state of a job is the set
of lines that exist, so that any process on any machine can make any unit, twice without harm, and killed work goes on.
"""
