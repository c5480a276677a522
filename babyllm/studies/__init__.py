"""Studies: runs of several arms and seeds side by side, in one table with differences and their errors.

    STUDY.yaml -> Study (`study`) -> configuration of each run (`run_values`) -> child processes (`running`)
               -> run directories -> results (`run_results`) -> paired differences (`paired_arms`)
               -> table and page (`study_report`), curves (`study_curves`)

`domain_weights` makes a mixture of domains from the held-out losses of two runs.
"""
