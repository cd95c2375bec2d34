{{- /*
The environment of the containers that receive the checkpoint, as preheat_operator.injection has it.
*/ -}}
{{- define "preheat.injection.environment" }}
  # The environment of each container: ours before theirs, and the pod's uid before what refers to it.
  - name: joined
    expression: >-
      variables.apps.transformList(i, c, variables.shim == 'off' ? c.?env.orValue([])
        : variables.pythonPaths[i] < 0
        ? [dyn({'name': 'PYTHONPATH', 'value': variables.folder + '/shim'})] + c.?env.orValue([])
        : c.env.transformList(k, e, k != variables.pythonPaths[i]
          || (e.?value.orValue('') + ':').startsWith(variables.folder + '/shim:') ? e
          : dyn({'name': 'PYTHONPATH', 'value': variables.folder + '/shim'
            + (e.?value.orValue('') == '' ? '' : ':' + e.value)})))
  - name: completed
    expression: >-
      variables.joined.map(theirs,
        ([dyn(variables.uid)] + ['PREHEAT_BUNDLE', 'PREHEAT_SHIM', 'PREHEAT_ON_FAILURE'].map(name,
          dyn({'name': name, 'value': variables.values[name]})))
        .filter(ours, !theirs.exists(e, e.name == ours.name)) + theirs)
  - name: environments
    expression: >-
      variables.completed.map(all,
        all.map(e, has(e.value) && e.value.contains('$(PREHEAT_POD_UID)')).slice(0,
          all.map(e, e.name).indexOf('PREHEAT_POD_UID')).exists(refers, refers)
        ? all.filter(e, e.name == 'PREHEAT_POD_UID') + all.filter(e, e.name != 'PREHEAT_POD_UID') : all)
{{- end }}
