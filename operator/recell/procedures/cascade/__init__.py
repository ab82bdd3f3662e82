"""What CascadeRecovery is made of.

fleet       how all cells of the router are
relieving   shedding, drains and circuits: what is held while cells are recovered, and how it is lifted
emergency   emergency cells
children    one run for each failed cell
returning   the way back when the run is aborted
"""
