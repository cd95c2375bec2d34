{{- /*
Why the pod cannot be injected, in the words of preheat_operator.injection.
*/ -}}
{{- define "preheat.injection.refusals" }}
  # In the order in which they are looked for; empty: the pod can be injected.
  - name: obstacles
    expression: >-
      variables.apps.transformList(i, c, c.name in variables.receivers,
        (variables.shim != 'off' && variables.pythonPaths[i] >= 0 && has(c.env[variables.pythonPaths[i]].valueFrom)
          ? ['container ' + c.name + ' takes PYTHONPATH from a ConfigMap, Secret or field, to which nothing can be added. '
            + 'Write it as a value; or annotate the pod with preheat.dev/shim: off, install preheat in the image and call '
            + 'preheat.apply(model)'] : [])
        + ['PREHEAT_POD_UID', 'PREHEAT_BUNDLE', 'PREHEAT_SHIM', 'PREHEAT_ON_FAILURE'].filter(name,
            c.?env.orValue([]).exists(e, e.name == name && (name == 'PREHEAT_POD_UID'
              ? e.?valueFrom.?fieldRef.?fieldPath.orValue('') != 'metadata.uid'
              : e.?value.orValue('') != variables.values[name])))
          .map(name, 'variable of container ' + c.name + ' ' + name + variables.occupied)
        + variables.mounts[i].filter(m, (m.path + '/').startsWith('/preheat/') && !(m.path == '/preheat'
            && m.volume == ['preheat', '', ''] && m.mount.?readOnly.orValue(false)))
          .map(m, 'mount of container ' + c.name + ' ' + m.path + variables.occupied))
      .flatten()
  - name: refusal
    expression: >-
      variables.stalled.size() > 0 ? ' cannot be used: ' + variables.stalled[0]
      : !variables.prepared
      ? ': Preheat has not seen it as it is now. Try again; if that does not help, look at its controller'
      : object.spec.?os.?name.orValue(object.spec.?nodeSelector[?'kubernetes.io/os'].orValue('')) == 'windows'
      ? ': the pod is for Windows, the loader for Linux. Remove its label'
      : !(variables.shim in ['auto', 'manual', 'off'])
      ? ": annotation preheat.dev/shim is '" + variables.shim + "'. Choose one of auto, manual, off"
      : variables.annotated.exists(name, !(name in variables.names))
      ? ": annotation preheat.dev/containers names '" + variables.annotated.filter(name, !(name in variables.names))[0]
        + "', which is no container of the pod. Choose among " + variables.names.join(', ')
      : variables.loaders.size() > 0 && !variables.injected
      ? ': the pod has a container named preheat-loader that is not the loader of this pipeline as it is now'
        + variables.another
      : !variables.injected && variables.runRefusal != '' ? variables.runRefusal
      : variables.uploadRefusal != '' ? variables.uploadRefusal
      : variables.volumeOccupied ? ': volume preheat' + variables.occupied
      : variables.obstacles.size() > 0 ? ': ' + variables.obstacles[0]
      : ''
{{- end }}
